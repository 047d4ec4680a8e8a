/**
 * Sends requests to shops of examples/migration.ts, in the order of a script on stdin, and prints the answers as JSON:
 *
 *   node test/support/shop.mjs < script.json
 *
 * The clock moves only when the script says so: then seconds in headers are the same in each run, and the end of a
 * window needs no waiting.
 */
import { text } from 'node:stream/consumers'
import rateLimit from 'fastify-redis-guard'
import { buildShop } from '../../dist/examples/migration.js'

let nowMs = Date.parse('2026-01-01T00:00:00Z')
Date.now = () => nowMs

const shops = new Map()
const answers = []
for (const { shop, options, afterMs, from, method, url, headers, payload } of JSON.parse(await text(process.stdin))) {
  if (!shops.has(shop)) shops.set(shop, await buildShop(options))
  nowMs += afterMs
  const { statusCode, headers: { date, ...rest }, body } = await shops.get(shop).inject({
    method, url, payload, remoteAddress: '127.0.0.1', headers: { 'x-forwarded-for': from, ...headers }
  })
  answers.push({ status: statusCode, headers: rest, body })
}
for (const shop of shops.values()) await shop.close()

// With the name of the package, so that a run with the wrong package is noticed.
console.log(JSON.stringify({ name: rateLimit[Symbol.for('fastify.display-name')], answers }))
