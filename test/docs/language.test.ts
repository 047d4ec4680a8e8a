/**
 * Words and forms that made sentences hard to read stay out of code, comments, messages, test titles and the manual.
 * A right use of one, such as "tells apart", matches none of the patterns.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { inRepository } from '../support/paths.js'

const roots = ['lib', 'test', 'tools', 'bench', 'chaos', 'examples', 'docs']
const papers = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'docker-compose.yml']
/** Generated from files that are looked at; and this file, which has all the words. */
const left = ['lib/store/redis/lua/scripts.ts', 'test/docs/language.test.ts']

/** What to write in their place: lines of the same meaning, by pattern. */
const patterns: Readonly<Record<string, RegExp>> = {
  'otherwise, or so that ... not': /\blest\b/i,
  rejects: /\bdislikes?\b/i,
  again: /\banew\b/i,
  'another client, a person, anybody': /\bsomebody\b/i,
  'the one that, any client that': /\bwho(so)?ever\b/i,
  'is reported, is sent, learns':
    /\b(is|are|was|were|be|been|being|last|has|have|had) told\b(?! apart)|\b(un)?told\b(?! apart)|\btoldMs\b/i,
  'reports, says, sends': /\btells? (of|redis|memory|it|them|all|us|nobody)\b(?! apart)/i,
  'must not': /\b(is|are|was) not to\b/i,
  'except, other than': /, save (for|that|where|what|in)\b/i
}

const files = [...papers, ...(await Promise.all(roots.map(filesIn))).flat()].filter(file => !left.includes(file))
const texts = await Promise.all(files.map(async file => ({ file, text: await readFile(inRepository(file), 'utf8') })))

for (const [remedy, pattern] of Object.entries(patterns)) {
  t.test(`write ${JSON.stringify(remedy)} in place of ${String(pattern)}`, t => {
    const found = texts.flatMap(({ file, text }) => text.split('\n').flatMap((line, index) => {
      return pattern.test(line) ? [`${file}:${index + 1}: ${line.trim()}`] : []
    }))
    t.same(found, [])
    t.end()
  })
}

t.test('all of the code and the manual is looked at', t => {
  t.ok(files.length > 300, String(files.length))
  t.end()
})

async function filesIn (root: string): Promise<readonly string[]> {
  const entries = await readdir(inRepository(root), { recursive: true, withFileTypes: true })
  return entries
    .filter(entry => entry.isFile() && /\.(ts|mjs|lua|md|ya?ml)$/.test(entry.name))
    .map(entry => join(entry.parentPath, entry.name).slice(inRepository('').length))
}
