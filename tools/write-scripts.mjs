/**
 * Composes the Lua scripts of each room of lib, and writes them into a module beside them: a bundle leaves other files
 * behind, but not JavaScript. Run it with `npm run lua` after changing a .lua file; test/lua.test.ts compares the two.
 *
 *   lua/<script>.lua          one script each
 *   lua/prelude/<part>.lua    parts that several scripts need. A script names its parts in its header, as in
 *                             `-- uses     sequence, time`, and gets them before its own text, together with the
 *                             parts that they use. Lua builds the functions of a part in each call, so parts are small.
 *   lua/rules/<algorithm>.lua the rule of one algorithm: Lua that returns a table of functions. In a script, the line
 *                             `--@rules` becomes `ruleOf(algorithm)`, which builds a rule on its first use.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const header = '/** Made of the Lua files beside it by `npm run lua`: change those. */'

/**
 * @param folder  a folder `lua`
 * @returns the text of each script, by name
 * @throws Error  if a script or a part uses a part that does not exist, or parts use each other
 */
export async function compose (folder) {
  const { parts, scripts } = await piecesOf(folder)
  return Object.fromEntries(scripts.map(([name, pieces]) =>
    [name, pieces.map(({ part, text }) => part === undefined ? text : parts.get(part).text).join('')]))
}

/** Each script as a list of pieces: either a `part`, or its own `text`. */
async function piecesOf (folder) {
  const prelude = await luaIn(join(folder, 'prelude'))
  const parts = new Map([...prelude].map(([name, text]) => [name, { text, uses: usesOf(text) }]))
  const rules = await luaIn(join(folder, 'rules'))
  if (rules.size > 0) parts.set('rules', { text: tableOf(rules), uses: [...rules.values()].flatMap(usesOf) })
  const scripts = [...await luaIn(folder)].map(([name, text]) => {
    const before = inOrder(usesOf(text), parts, `${name}.lua`)
    const [start, end, ...others] = text.split(/^ *--@rules\n/m)
    if (others.length > 0) throw new Error(`${name}.lua: --@rules stands twice`)
    const pieces = before.map(part => ({ part }))
    if (end === undefined) return [name, [...pieces, { text }]]
    const within = inOrder(['rules'], parts, `${name}.lua`).filter(part => !before.includes(part))
    return [name, [...pieces, { text: start }, ...within.map(part => ({ part })), { text: end }]]
  })
  return { parts, scripts }
}

/** The texts of the Lua files in a folder, by name, sorted. */
async function luaIn (folder) {
  const files = await readdir(folder).catch(() => [])
  const names = files.filter(file => file.endsWith('.lua')).map(file => basename(file, '.lua')).sort()
  const read = async name => [name, await readFile(join(folder, `${name}.lua`), 'utf8')]
  return new Map(await Promise.all(names.map(read)))
}

function usesOf (text) {
  return /^-- uses +(.*)$/m.exec(text)?.[1].split(', ') ?? []
}

/** The parts, each once and after those that it uses. */
function inOrder (names, parts, user, path = []) {
  const ordered = names.flatMap(name => {
    if (path.includes(name)) throw new Error(`${[...path, name].join(' -> ')}: parts use each other`)
    const part = parts.get(name)
    if (part === undefined) throw new Error(`${user} uses ${name}, which is no part`)
    return [...inOrder(part.uses, parts, `${name}.lua`, [...path, name]), name]
  })
  return [...new Set(ordered)]
}

function tableOf (rules) {
  const functions = [...rules].map(([name, text]) => `RULES['${name}'] = function ()\n${text}end\n`)
  return `local RULES = {}\n${functions.join('')}
-- A rule is built when the first counter needs it.
local built = {}
local function ruleOf (algorithm)
  local rule = built[algorithm]
  if rule == nil then
    rule = RULES[algorithm]()
    built[algorithm] = rule
  end
  return rule
end
`
}

/** The module of a room. It contains each part once, and joins them when it is loaded. */
async function moduleOf (folder) {
  const { parts, scripts } = await piecesOf(folder)
  const used = new Set(scripts.flatMap(([, pieces]) => pieces.flatMap(({ part }) => part ?? [])))
  const named = [...parts].filter(([name]) => used.has(name)).map(([name, { text }]) => `  ${name}: ${quoted(text)}`)
  const composed = scripts.map(([name, pieces]) => {
    const terms = pieces.map(({ part, text }) => part === undefined ? quoted(text) : `parts.${part}`)
    return `  ${name.includes('-') ? `'${name}'` : name}: ${terms.join(' + ')}`
  })
  const partsModule = named.length === 0 ? '' : `const parts = {\n${named.join(',\n\n')}\n}\n\n`
  return `${header}\n\n${partsModule}export const scripts = {\n${composed.join(',\n\n')}\n}\n`
}

function quoted (lua) {
  return `\`${lua.replace(/[\\`]|\$\{/g, '\\$&')}\``
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const room of ['redis', 'store/redis']) {
    const folder = fileURLToPath(new URL(`../lib/${room}/lua/`, import.meta.url))
    await writeFile(join(folder, 'scripts.ts'), await moduleOf(folder))
  }
}
