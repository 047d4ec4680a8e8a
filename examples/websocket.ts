/** WebSocket behind the guard: a limit on connections, and one on messages. */
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'

const app = Fastify()
await app.register(websocket)    // before the guard, so that it closes the sockets of refused upgrades
await app.register(redisGuard)

// One counter for each client, over all of its sockets and all instances: 5 at once, then one each half second.
const countMessage = app.createRateLimit({
  groupId: 'chat-messages', algorithm: 'gcra', max: 20, timeWindow: '10 seconds', burst: 5
})

app.get('/chat', {
  websocket: true,
  config: { rateLimit: { max: 10, timeWindow: '1 minute' } }   // connections: refused before the upgrade
}, (socket, request) => {
  // Add the listener before anything async: messages that come earlier are lost.
  socket.on('message', async message => {
    try {
      const result = await countMessage(request)
      if (!result.isAllowed && result.isExceeded) socket.close(1008, 'Too many messages')
      else if (socket.readyState === socket.OPEN) socket.send(`You said: ${String(message)}`)
    } catch (error) {
      request.log.error(error)
      socket.close(1011)         // not counted: closing, or Redis is away and onOutage is 'deny'
    }
  })
})

console.log(await app.listen({ port: Number(process.env['PORT'] ?? 3000), host: '127.0.0.1' }))
