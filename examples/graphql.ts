/** GraphQL behind the guard: a query costs one hit for each field that it asks for. */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'
import { buildSchema, graphql, GraphQLError, Kind, parse } from 'graphql'

const schema = buildSchema(`
  type Query { shop: Shop }
  type Shop { name: String, neighbours: [Shop] }
`)
const rootValue = { shop: { name: 'tea', neighbours: [{ name: 'rice', neighbours: [] }] } }

const app = Fastify()
await app.register(redisGuard)

/** Fields that a document asks for. A fragment counts wherever it is spread, and is walked once. */
function fieldsOf (source = '') {
  const { definitions } = parse(source, { maxTokens: 2000 })
  const fragments = new Map()
  for (const definition of definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition.selectionSet)
  }
  const known = new Map()
  const ofFragment = (name = '') => {
    let fields = known.get(name)
    if (fields === undefined) {
      known.set(name, 0)   // a fragment that spreads itself is invalid, and must not be walked for ever
      fields = ofSelections(fragments.get(name))
      known.set(name, fields)
    }
    return fields
  }
  const ofSelections = (set = Object({ selections: [] })) => {
    let fields = 0
    for (const { kind, name, selectionSet } of set.selections) {
      if (kind === Kind.FRAGMENT_SPREAD) fields += ofFragment(name.value)
      else fields += (kind === Kind.FIELD ? 1 : 0) + ofSelections(selectionSet)
    }
    return fields
  }
  return definitions.reduce((fields, definition) => {
    return fields + (definition.kind === Kind.OPERATION_DEFINITION ? ofSelections(definition.selectionSet) : 0)
  }, 0)
}

/** At least 1, so that no client can choose a cost of 0. */
function costOf (query = '') {
  try {
    return Math.max(1, fieldsOf(query))
  } catch (error) {
    if (!(error instanceof GraphQLError)) throw error
    throw Object.assign(new Error(error.message), { statusCode: 400 })
  }
}

app.post('/graphql', {
  schema: {
    body: {
      type: 'object',
      required: ['query'],
      properties: { query: { type: 'string' }, variables: { type: 'object' } }
    }
  },
  config: {
    rateLimit: {
      hook: 'preHandler',        // the body is valid
      limits: [
        { name: 'queries', max: 100, timeWindow: '1 minute', cost: 1 },
        { name: 'fields', max: 1000, timeWindow: '1 minute', cost: ({ body }) => costOf(Object(body).query) }
      ]
    }
  }
}, async request => {
  const { query, variables } = Object(request.body)   // Object(): only TypeScript needs it
  return await graphql({ schema, rootValue, source: query, variableValues: variables ?? {} })
})

console.log(await app.listen({ port: Number(process.env['PORT'] ?? 3000), host: '127.0.0.1' }))
