/** Coverage is measured of lib/ alone; instances in their own processes run the same compiled code. */
import { readdirSync } from 'node:fs'

const files = readdirSync(new URL('../../lib/', import.meta.url), { recursive: true })
  .map(name => `lib/${name.replaceAll('\\', '/')}`)
  .filter(name => name.endsWith('.ts'))

export default () => files
