/** The pages of the manual, README and docs/, and what tests look for in them. */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { inRepository } from './paths.js'

export interface Page {
  /** from the root of the repository, such as `docs/limits.md` */
  readonly path: string
  readonly text: string
}

/** A fenced block of code. */
export interface Block {
  /** the first word after the fence, such as `ts` */
  readonly language: string
  /** the rest of that line, such as `run` or the path of a file */
  readonly note: string
  readonly code: string
  /** where it stands, such as `docs/limits.md:12` */
  readonly place: string
}

/** README first, then docs/ by name. */
export async function readPages (): Promise<readonly Page[]> {
  const names = (await readdir(inRepository('docs'))).filter(name => name.endsWith('.md')).toSorted()
  const paths = ['README.md', ...names.map(name => `docs/${name}`)]
  return await Promise.all(paths.map(async path => ({ path, text: await readFile(inRepository(path), 'utf8') })))
}

export async function writePage ({ path, text }: Page): Promise<void> {
  await writeFile(inRepository(path), text)
}

export function blocksOf ({ path, text }: Page): readonly Block[] {
  return [...text.matchAll(/^( *)```(\w+)(.*)\n([^]*?)^\1```$/gm)].map(found => {
    const [, indent = '', language = '', note = '', code = ''] = found
    return {
      language,
      note: note.trim(),
      code: code.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
      place: `${path}:${text.slice(0, found.index).split('\n').length}`
    }
  })
}

/** A page without its blocks of code: prose, tables and headings. */
export function proseOf ({ text }: Page): string {
  return text.replaceAll(/^( *)```\w*.*\n[^]*?^\1```$/gm, '')
}

/** A table below a marker comment: what stands before its rows, and its rows. */
export function tableAfter (marker: string): RegExp {
  return new RegExp(`(<!-- ${marker} -->\\n\\|.*\\n\\|.*\\n)((?:\\|.*\\n)*)`)
}

/** The one page that has a marker comment. */
export function pageWith (pages: readonly Page[], marker: string): Page {
  const found = pages.filter(({ text }) => text.includes(`<!-- ${marker} -->`))
  const [page] = found
  if (page === undefined || found.length > 1) {
    throw new Error(`<!-- ${marker} --> stands on ${found.length} pages, not on one`)
  }
  return page
}

/** Anchors of a page as GitHub makes them from its headings. */
export function anchorsOf (page: Page): ReadonlySet<string> {
  const anchors = new Set<string>()
  for (const [, heading] of proseOf(page).matchAll(/^#+ (.*)$/gm)) {
    const anchor = heading!.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')
    let unique = anchor
    for (let i = 1; anchors.has(unique); i++) unique = `${anchor}-${i}`
    anchors.add(unique)
  }
  return anchors
}
