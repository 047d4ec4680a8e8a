/** Paths of files in the repository, for tests and the programs that they start, which run in dist/. */
import { fileURLToPath } from 'node:url'

const repository = new URL('../../../', import.meta.url)

/** @param path  from the root of the repository, such as `lib/settings/options.ts` */
export function inRepository (path: string): string {
  return fileURLToPath(new URL(path, repository))
}
