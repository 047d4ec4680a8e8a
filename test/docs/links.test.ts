/** Links of the manual lead somewhere: in the repository, and in the package as npm shows and installs it. */
import { access, readFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'
import { anchorsOf, proseOf, readPages } from '../support/markdown.js'
import { inRepository } from '../support/paths.js'

const pages = await readPages()
const { homepage, repository, bugs } = JSON.parse(await readFile(inRepository('package.json'), 'utf8')) as {
  readonly homepage: string, readonly repository: { readonly url: string }, readonly bugs: { readonly url: string }
}
/** Where a file of the repository is shown. */
const shownAt = `${repository.url.replace(/^git\+|\.git$/g, '')}/blob/main/`

const links = pages.flatMap(page => {
  return [...proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => ({ page, target: target! }))
})

t.test('a link to a page leads to a file of the package, and its anchor to a heading', async t => {
  const papers = ['README.md', 'CHANGELOG.md', 'LICENSE']
  const isPackaged = (path: string) => path.startsWith('docs/') || papers.includes(path)
  let followed = 0
  for (const { page, target } of links) {
    if (/^https?:/.test(target)) continue
    const [path = '', anchor] = target.split('#')
    const file = path === '' ? page.path : normalize(join(dirname(page.path), path))
    t.ok(isPackaged(file), `${page.path}: ${target} is in the package`)
    await t.resolves(access(inRepository(file)), `${page.path}: ${target} exists`)
    if (anchor === undefined) continue
    const other = pages.find(other => other.path === file)
    t.ok(other !== undefined && anchorsOf(other).has(anchor), `${page.path}: ${target} is a heading`)
    followed++
  }
  t.ok(followed > 10)
})

t.test('a link to the repository leads to a file of it', async t => {
  const own = links.filter(({ target }) => target.startsWith(shownAt))
  t.ok(own.length > 0)
  for (const { page, target } of own) {
    const path = target.slice(shownAt.length).replace(/#.*/, '')
    await t.resolves(access(inRepository(path)), `${page.path}: ${target}`)
  }
})

t.test('each page can be reached from README', async t => {
  const seen = new Set(['README.md'])
  for (const path of seen) {
    for (const { page, target } of links) {
      if (page.path !== path || /^https?:/.test(target)) continue
      seen.add(normalize(join(dirname(path), target.replace(/#.*/, ''))))
    }
  }
  for (const { path } of pages) t.ok(seen.has(path), path)
})

t.test('package.json names one repository', async t => {
  const address = repository.url.replace(/^git\+|\.git$/g, '')
  t.match(address, /^https:\/\/github\.com\/[\w-]+\/fastify-redis-guard$/)
  t.equal(homepage, `${address}#readme`)
  t.equal(bugs.url, `${address}/issues`)
})
