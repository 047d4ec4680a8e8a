// tsc copies no Lua; the compiled code reads it from beside itself.
import { cp } from 'node:fs/promises'

const root = new URL('../../', import.meta.url)
await cp(new URL('lib/store/lua/', root), new URL('dist/lib/store/lua/', root), { recursive: true })
