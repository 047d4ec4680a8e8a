/** Bundles bundled.mjs into the folder --configFolder, in both formats. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import commonjs from '@rollup/plugin-commonjs'
import json from '@rollup/plugin-json'
import { nodeResolve } from '@rollup/plugin-node-resolve'

export default ({ configFolder }) => ({
  input: fileURLToPath(new URL('bundled.mjs', import.meta.url)),
  // Nothing for the guard's own code: Fastify and ioredis need these.
  plugins: [nodeResolve({ preferBuiltins: true }), commonjs({ ignoreDynamicRequires: true }), json()],
  output: [
    { format: 'es', file: join(configFolder, 'program.mjs') },
    { format: 'cjs', file: join(configFolder, 'program.cjs') }
  ]
})
