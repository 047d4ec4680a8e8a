/** Files of the repository, for tests and the programs that they start: compiled, they lie in dist/. */
import { fileURLToPath } from 'node:url'

const repository = new URL('../../../', import.meta.url)

/** @param path  from the root of the repository, as `lib/settings/options.ts` */
export function inRepository (path: string): string {
  return fileURLToPath(new URL(path, repository))
}
