/** Reads from INFO what Redis did for the servers. */
import type { Redis } from 'ioredis'

export interface RedisUse {
  /** of the main thread, which does all the work here */
  readonly cpuMicros: number
  /**
   * Scripts that clients sent. All three libraries decide by one script each,
   * and poll by scripts as well. Redis' own count, total_commands_processed,
   * includes the commands that scripts call, so it does not show round trips.
   */
  readonly commands: number
}

export async function readUse (redis: Redis): Promise<RedisUse> {
  const [cpu, stats] = await Promise.all([redis.info('cpu'), redis.info('commandstats')])
  const seconds = Number(/used_cpu_user_main_thread:([\d.]+)/.exec(cpu)?.[1]) +
    Number(/used_cpu_sys_main_thread:([\d.]+)/.exec(cpu)?.[1])
  const commands =
    [...stats.matchAll(/^cmdstat_(?:eval|evalsha):calls=(\d+)/gm)].reduce((sum, [, calls]) => sum + Number(calls), 0)
  return { cpuMicros: seconds * 1e6, commands }
}

/** @returns the median round trip of PINGs that are sent one after the other, us */
export async function pingMicros (redis: Redis, times = 500): Promise<number> {
  const taken: number[] = []
  for (let i = 0; i < times; i++) {
    const startedAt = process.hrtime.bigint()
    await redis.ping()
    taken.push(Number(process.hrtime.bigint() - startedAt) / 1000)
  }
  return taken.toSorted((a, b) => a - b)[times >> 1]!
}
