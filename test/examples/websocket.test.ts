/** WebSocket as docs/limits.md and docs/security.md describe it: the limits of examples/websocket.ts, and blocks. */
import { once } from 'node:events'
import { promisify } from 'node:util'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import t from 'tap'
import { WebSocket } from 'ws'
import redisGuard from '../../lib/index.js'
import { exampleOf } from '../support/example.js'
import { until } from '../../tools/until.js'

t.test('a client over its message limit is disconnected, and over its connection limit not admitted', async t => {
  const url = (await exampleOf(t, 'websocket')).replace('http', 'ws')
  const open = async () => {
    const socket = new WebSocket(`${url}/chat`)
    t.teardown(() => socket.terminate())
    await once(socket, 'open')
    return socket
  }
  const socket = await open()
  const answers: string[] = []
  socket.on('message', message => answers.push(String(message)))
  const closed = once(socket, 'close')
  for (let i = 1; i <= 50; i++) socket.send(`${i}`)
  const [code, reason] = await closed
  t.same([code, String(reason)], [1008, 'Too many messages'])
  t.same(answers.slice(0, 5), [1, 2, 3, 4, 5].map(i => `You said: ${i}`))
  t.ok(answers.length < 50)

  for (let i = 2; i <= 10; i++) await open()
  await t.rejects(open(), { message: 'Unexpected server response: 429' })
})

t.test('a block refuses an upgrade and closes its socket, and leaves earlier sockets open', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  await app.register(websocket)
  await app.register(redisGuard, { redis: false })
  await app.register(async child => {
    child.get('/echo', { websocket: true }, socket => { socket.on('message', message => socket.send(message)) })
  })
  const url = (await app.listen({ port: 0, host: '127.0.0.1' })).replace('http', 'ws')
  const open = () => {
    const socket = new WebSocket(`${url}/echo`)
    t.teardown(() => socket.terminate())
    return socket
  }
  const socket = open()
  await once(socket, 'open')
  await app.redisGuard.blockIP('127.0.0.1', 60)
  await t.rejects(once(open(), 'open'), { message: 'Unexpected server response: 403' })
  const connections = promisify(app.server.getConnections.bind(app.server))
  await until(async () => await connections() === 1)
  socket.send('still here')
  const [answer] = await once(socket, 'message')
  t.equal(String(answer), 'still here')
})
