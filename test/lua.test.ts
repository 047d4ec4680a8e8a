/** The Lua scripts as they travel in the JavaScript. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { scripts as ofConnection } from '../lib/redis/lua/scripts.js'
import { scripts as ofStore } from '../lib/store/redis/lua/scripts.js'
import { inRepository } from './support/paths.js'

for (const [name, scripts] of [['lib/redis/lua', ofConnection], ['lib/store/redis/lua', ofStore]] as const) {
  t.test(`each script of ${name} is the Lua file of its name, to the last character; if not, run \`npm run lua\``, async t => {
    const folder = inRepository(name)
    const files = (await readdir(folder)).filter(file => file.endsWith('.lua')).sort()
    const read = await Promise.all(files.map(async file => [file.replace('.lua', ''), await readFile(join(folder, file), 'utf8')]))
    t.ok(files.length > 0)
    t.same(scripts, Object.fromEntries(read))
  })
}
