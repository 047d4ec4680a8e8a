/** examples/graphql.ts, which docs/limits.md shows: a query costs one hit for each field that it asks for. */
import t from 'tap'
import { exampleOf } from '../support/example.js'

t.test('a query costs one hit per field, fragments included, and one above the limit never passes', async t => {
  const url = await exampleOf(t, 'graphql')
  const ask = async (query: unknown) => {
    const response = await fetch(`${url}/graphql`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ query })
    })
    const { headers, status } = response
    const body = await response.json() as { readonly data?: unknown }
    return { status, left: Number(headers.get('x-ratelimit-remaining')), retry: headers.get('retry-after'), body }
  }
  const nested = (fields: number, depth: number) => {
    const inside = (i: number) => i === 0 ? 'name '.repeat(fields) : `...F${i - 1} ...F${i - 1}`
    const fragments = Array.from({ length: depth + 1 }, (_, i) => `fragment F${i} on Shop { ${inside(i)} }`)
    return `{ shop { ...F${depth} } } ${fragments.join(' ')}`
  }

  // The headers are those of the limit that would refuse the same query now, or has least left.
  const first = await ask('{ shop { name } }')
  t.match(first, { status: 200, left: 99, body: { data: { shop: { name: 'tea' } } } })
  t.match(await ask('{ shop { ...on Shop { name neighbours { name } } } }'), {
    status: 200, left: 98, body: { data: { shop: { neighbours: [{ name: 'rice' }] } } }
  })
  t.match(await ask(nested(1, 40)), { status: 429, retry: null }, 'fragments of fragments, 2 ** 40 fields')
  t.match(await ask(nested(100, 3)), { status: 200, left: 193 }, '801 fields')
  t.match(await ask(nested(100, 1)), { status: 429, retry: /^\d+$/ }, '201 fields')
  t.match(await ask('fragment A on Shop { ...A } { shop { ...A } }'), { status: 200 }, 'a circle is refused as a query')
  t.match(await ask('{'), { status: 400 })
  t.match(await ask({}), { status: 400 })
})
