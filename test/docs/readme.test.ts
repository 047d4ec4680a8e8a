/** README's first screen: its program runs, and a client sees the refusal that it shows. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import ts from 'typescript'
import { blocksOf, readPages } from '../support/markdown.js'
import { inRepository } from '../support/paths.js'

const [readme] = await readPages()
const blocks = blocksOf(readme!)
const program = blocks.find(({ language }) => language === 'ts')!.code
const shown = blocks.find(({ language }) => language === 'http')!.code

t.test('the sixth login in a minute gets the refusal as shown, and the blocked address a 403', async t => {
  const folder = await mkdtemp(inRepository('dist/readme-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  const quiet = program.replace('logger: true, ', '')     // tap reads this process's stdout
  const { outputText } = ts.transpileModule(quiet.replace(/^await app\.listen.*$/m, 'export { app }'), {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 }
  })
  const file = join(folder, 'server.mjs')
  await writeFile(file, outputText)
  const { app } = await import(pathToFileURL(file).href) as { readonly app: FastifyInstance }
  t.teardown(async () => await app.close())

  const logIn = async () => await app.inject({ method: 'POST', url: '/login' })
  for (let i = 0; i < 5; i++) t.equal((await logIn()).statusCode, 200)
  const { statusCode, statusMessage, headers, body } = await logIn()
  const [statusLine, ...headerLines] = shown.split('\n\n')[0]!.split('\n')
  t.equal(statusLine, `HTTP/1.1 ${statusCode} ${statusMessage}`)
  for (const line of headerLines) {
    const [, name, value] = /^([\w-]+): (.*)$/.exec(line)!
    t.equal(String(headers[name!]), value, line)
  }
  t.equal(shown.split('\n\n')[1]!.trimEnd(), body)
  t.equal((await app.inject({ url: '/', remoteAddress: '203.0.113.7' })).statusCode, 403)
})

t.test('README is about 120 lines', t => {
  t.ok(readme!.text.split('\n').length <= 130)
  t.end()
})
