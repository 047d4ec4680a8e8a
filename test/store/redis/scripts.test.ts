/** The Lua scripts as they travel in the JavaScript. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { scripts } from '../../../lib/store/redis/lua/scripts.js'
import { inRepository } from '../../support/paths.js'

const folder = inRepository('lib/store/redis/lua')

t.test('each script is the Lua file of its name, to the last character; if not, run `npm run lua`', async t => {
  const files = (await readdir(folder)).filter(file => file.endsWith('.lua')).sort()
  const read = await Promise.all(files.map(async file => [file.replace('.lua', ''), await readFile(join(folder, file), 'utf8')]))
  t.ok(files.length > 10)
  t.same(scripts, Object.fromEntries(read))
})
