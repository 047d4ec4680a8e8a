/**
 * Makes a program import another package instead of this one:
 *
 *   IMPORT_AS=@fastify/rate-limit node --import ./test/support/import-as.mjs program.js
 *
 * Node loads this file twice: into the program, where it registers itself, and into the thread that resolves imports.
 */
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'

if (isMainThread) register(import.meta.url)

export async function resolve (specifier, context, next) {
  return await next(specifier === 'fastify-redis-guard' ? process.env.IMPORT_AS : specifier, context)
}
