/**
 * Writes the Lua of each room of lib into a module beside it, so that it
 * travels in the JavaScript: a bundle leaves files behind. Run it by `npm run
 * lua` after a change of a script; test/lua.test.ts says whether both agree.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'

const header = '/** Made of the Lua files beside it by `npm run lua`: change those. */'

for (const room of ['redis', 'store/redis']) {
  const folder = new URL(`../lib/${room}/lua/`, import.meta.url)
  const files = (await readdir(folder)).filter(file => file.endsWith('.lua')).sort()
  const entries = await Promise.all(files.map(async file => {
    const name = basename(file, '.lua')
    const lua = await readFile(new URL(file, folder), 'utf8')
    return `  ${name.includes('-') ? `'${name}'` : name}: \`${lua.replace(/[\\`]|\$\{/g, '\\$&')}\``
  }))
  await writeFile(new URL('scripts.ts', folder), `${header}\n\nexport const scripts = {\n${entries.join(',\n\n')}\n}\n`)
}
