/**
 * Puts a distance between the servers and Redis, in a process of its own:
 *
 *   node dist/bench/delay-proxy.js <port of Redis> <ms each way>
 *
 * Packets are held back, not throttled. Prints its port, and ends with its parent.
 */
import { TcpProxy } from '../tools/tcp-proxy.js'

const proxy = await TcpProxy.start(Number(process.argv[2]))
proxy.delayMs = Number(process.argv[3])
process.once('disconnect', () => process.exit(0))
console.log(`port ${proxy.port}`)
