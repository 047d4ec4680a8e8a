/** Readers copy programs of the manual into `.js` files: the programs are plain JavaScript, and a test file passes. */
import { execFile, type ExecFileException } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { type Block, blocksOf, readPages } from '../support/markdown.js'
import { inRepository } from '../support/paths.js'

const pages = await readPages()
const blocks = pages.flatMap(blocksOf)
const isProgram = ({ language, code }: Block) => {
  return ['ts', 'js'].includes(language) && /^import .* from 'fastify'$/m.test(code)
}

t.test('programs are plain JavaScript, unless the text above names a file of TypeScript', t => {
  const programs = blocks.filter(isProgram)
  t.ok(programs.length > 15)
  for (const block of programs) {
    if (/\.m?ts\b/.test(textAbove(block))) continue
    const { diagnostics } = ts.transpileModule(block.code, { fileName: 'block.mjs', reportDiagnostics: true })
    t.same(diagnostics?.map(({ messageText }) => messageText), [], block.place)
  }
  const planted = ts.transpileModule('const a: number = 1', { fileName: 'block.mjs', reportDiagnostics: true })
  t.ok(planted.diagnostics!.length > 0, 'an annotation is found')
  t.end()
})

t.test('a file of tests passes under node --test', async t => {
  const files = blocks.filter(({ language, code }) => language === 'ts' && /from 'node:test'$/m.test(code))
  t.ok(files.length > 0)
  const folder = await mkdtemp(inRepository('dist/manual-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  for (const [index, { code, place }] of files.entries()) {
    const file = join(folder, `${index}.test.mjs`)
    await writeFile(file, code)
    t.match(await outputOf(['--test', file]), /^# pass [1-9].*\n# fail 0$/m, place)
  }
})

/** The paragraph that leads to a block. */
function textAbove ({ place }: Block): string {
  const [path, line] = place.split(':')
  const lines = pages.find(page => page.path === path)!.text.split('\n').slice(0, Number(line) - 1)
  return lines.join('\n').trimEnd().split('\n\n').at(-1)!
}

async function outputOf (args: readonly string[]): Promise<string> {
  // Without NODE_OPTIONS, in which tap has its loaders; without what the guard reads; and in no test of another runner.
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'] }
  return await new Promise(resolve => {
    execFile(process.execPath, args, { env, timeout: 60_000 }, (error: ExecFileException | null, stdout, stderr) => {
      resolve(`${stdout}${stderr}${error?.message ?? ''}`)
    })
  })
}
