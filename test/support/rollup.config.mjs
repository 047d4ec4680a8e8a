/** Bundles bundled.mjs into --configFolder in both formats; with --configOwn, without other packages. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import commonjs from '@rollup/plugin-commonjs'
import json from '@rollup/plugin-json'
import { nodeResolve } from '@rollup/plugin-node-resolve'

export default ({ configFolder, configOwn = false }) => ({
  input: fileURLToPath(new URL('bundled.mjs', import.meta.url)),
  external: id => configOwn && /^[@\w]/.test(id),
  // The plugins are for Fastify and ioredis; the guard's own code needs none.
  plugins: configOwn ? [] : [nodeResolve({ preferBuiltins: true }), commonjs({ ignoreDynamicRequires: true }), json()],
  output: [
    { format: 'es', file: join(configFolder, 'program.mjs') },
    { format: 'cjs', file: join(configFolder, 'program.cjs') }
  ]
})
