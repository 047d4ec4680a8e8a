/** The Lua scripts embedded in JavaScript, and how they are composed. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { scripts as ofConnection } from '../lib/redis/lua/scripts.js'
import { scripts as ofStore } from '../lib/store/redis/lua/scripts.js'
import { inRepository } from './support/paths.js'
import { RedisServer } from '../tools/redis-server.js'

const { compose } = await import(pathToFileURL(inRepository('tools/write-scripts.mjs')).href) as {
  compose: (folder: string) => Promise<Readonly<Record<string, string>>>
}

const rooms: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'lib/redis/lua': ofConnection,
  'lib/store/redis/lua': ofStore
}

for (const [folder, scripts] of Object.entries(rooms)) {
  t.test(`the scripts of ${folder} match its Lua files; if not, run \`npm run lua\``, async t => {
    const files = (await readdir(inRepository(folder))).filter(file => file.endsWith('.lua'))
    t.ok(files.length > 0)
    t.same(Object.keys(scripts).sort(), files.map(file => file.replace('.lua', '')).sort())
    t.same(scripts, await compose(inRepository(folder)))
  })
}

t.test('Redis compiles each script', async t => {
  const server = await RedisServer.start()
  const client = server.client()
  t.teardown(async () => {
    client.disconnect()
    await server.stop()
  })
  for (const [name, script] of Object.values(rooms).flatMap(scripts => Object.entries(scripts))) {
    t.match(await client.script('LOAD', script), /^[0-9a-f]{40}$/, name)
  }
})

t.test('no script or part redefines a function of a part', async t => {
  const prelude = join(inRepository('lib/store/redis/lua'), 'prelude')
  const parts =
    await Promise.all((await readdir(prelude)).map(async file => await readFile(join(prelude, file), 'utf8')))
  const namesIn = (text: string) => [...text.matchAll(/^ *local function (\w+)/gm)].map(([, name]) => name!)
  const shared = parts.flatMap(namesIn)
  t.equal(new Set(shared).size, shared.length)
  for (const [name, script] of Object.entries(ofStore)) {
    for (const part of shared) t.ok(namesIn(script).filter(other => other === part).length <= 1, `${name}: ${part}`)
  }
})

/** Writes Lua files into a new folder. */
async function folderOf (files: Readonly<Record<string, string>>): Promise<string> {
  const folder = t.testdir({})
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await writeFile(join(folder, path), text)
  }
  return folder
}

t.test('a script begins with its parts, each once and after those that it uses', async t => {
  const folder = await folderOf({
    'script.lua': '-- uses     b, a\nreturn\n',
    'other.lua': 'return 1\n',
    'prelude/a.lua': '-- a\n',
    'prelude/b.lua': '-- uses     c, a\n-- b\n',
    'prelude/c.lua': '-- c\n'
  })
  t.same(await compose(folder), {
    script: '-- c\n-- a\n-- uses     c, a\n-- b\n-- uses     b, a\nreturn\n',
    other: 'return 1\n'
  })
})

t.test('the rules replace --@rules, after the parts that only they use', async t => {
  const folder = await folderOf({
    'script.lua': '-- uses     a\n-- before\n  --@rules\n-- behind\n',
    'prelude/a.lua': '-- a\n',
    'prelude/b.lua': '-- b\n',
    'rules/x.lua': '-- uses     a, b\nreturn 1\n',
    'rules/y.lua': 'return 2\n'
  })
  const { script } = await compose(folder)
  const opening = [
    '-- a', '-- uses     a', '-- before', '-- b', 'local RULES = {}',
    "RULES['x'] = function ()", '-- uses     a, b', 'return 1', 'end', "RULES['y'] = "
  ].join('\n')
  t.equal(script?.slice(0, opening.length), opening)
  t.match(script, /\n-- behind\n$/)
})

t.test('rejects missing parts, parts that use each other, and a second --@rules', async t => {
  const cases: readonly (readonly [files: Readonly<Record<string, string>>, message: RegExp])[] = [
    [{ 'script.lua': '-- uses     a\n' }, /script\.lua uses a, which is no part/],
    [{ 'script.lua': '-- uses     a\n', 'prelude/a.lua': '-- uses     b\n' }, /a\.lua uses b, which is no part/],
    [{ 'script.lua': '-- uses     a\n', 'prelude/a.lua': '-- uses     b\n', 'prelude/b.lua': '-- uses     a\n' },
      /a -> b -> a/],
    [{ 'script.lua': '--@rules\n--@rules\n', 'rules/x.lua': 'return 1\n' }, /--@rules stands twice/]
  ]
  for (const [files, message] of cases) await t.rejects(compose(await folderOf(files)), message)
})
