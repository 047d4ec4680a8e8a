/** One host that floods an application with names of its choice, with memory alone. */
import t, { type Test } from 'tap'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { guardedApp } from '../support/app.js'
import { size } from '../support/size.js'

const host = '198.51.100.1'

/** Each address has a part of 10 counters, and 80 more are free for all. */
async function shop (t: Test): Promise<FastifyInstance> {
  const keyGenerator = (request: FastifyRequest) => String(request.headers['x-user'])
  const byUser = { max: 5, timeWindow: '1 hour', keyGenerator }
  const app = await guardedApp(t, { cache: 160, max: 1, timeWindow: '1 hour' })
  app.post('/login', { config: { rateLimit: byUser } }, async () => 'in')
  app.get('/basket', { config: { rateLimit: byUser } }, async () => 'full')
  app.get('/', async () => 'hello')
  return app
}

async function passes (app: FastifyInstance, url: string, remoteAddress: string, user = ''): Promise<boolean> {
  const method = url === '/login' ? 'POST' : 'GET'
  return (await app.inject({ method, url, remoteAddress, headers: { 'x-user': user } })).statusCode === 200
}

t.test('a flooding host gets five guesses at a name with a limit of five, whatever it sends between them', async t => {
  const app = await shop(t)
  let guesses = 0
  for (let round = 0; round < size(8, 20); round++) {
    if (await passes(app, '/login', host, 'admin')) guesses++
    for (let i = 0; i < 200; i++) await passes(app, '/login', host, `name ${round} ${i}`)
  }
  t.equal(guesses, 5)
})

t.test('a flooding host gets no request of another address refused', async t => {
  const app = await shop(t)
  // First as many limited names as there is room for, then enough names to use up the counters that newcomers share.
  for (let i = 0; i < 1000; i++) await passes(app, '/login', host, `name ${Math.floor(i / 5)}`)
  for (let i = 0; i < size(500, 2000); i++) await passes(app, '/login', host, `other name ${i}`)
  const refused: string[] = []
  for (let i = 0; i < 20; i++) {
    const address = `192.0.2.${i}`
    for (const url of ['/login', '/basket', '/']) {
      if (!await passes(app, url, address, `user of ${address}`)) refused.push(`${address} ${url}`)
    }
  }
  t.same(refused, [])
})
