/**
 * Breaks Redis under a service of two instances, in twenty ways, and prints what
 * their clients saw:
 *
 *   npm run chaos
 *   npm run chaos -- --fault SIGSTOP --fault 'kill -9' --seconds 10
 *   npm run --silent chaos -- --json --fault Cluster
 *   npm run chaos -- --at-once 3 --timeout 900      on a busy machine, where times say nothing
 *
 * options.ts has all options. The exit code is 1 if a play has a miss. All
 * servers are started here, on free ports, and ended by their own process ids.
 */
import { faults } from './faults.js'
import { figuresOf, missesOf } from './judge.js'
import { readOptions } from './options.js'
import { play } from './play.js'
import { renderRows, type Row } from './report.js'

const { json, names, atOnce, ...options } = readOptions(process.argv.slice(2))
const chosen = faults.filter(({ name }) => {
  const isMeant = (part: string) => part === `=${name}` || name.toLowerCase().includes(part.toLowerCase())
  return names.length === 0 || names.some(isMeant)
})
if (chosen.length === 0) {
  throw new Error(`--fault must be part of one of ${faults.map(({ name }) => `"${name}"`).join(', ')}`)
}

const rows: Row[] = []
const waiting = [...chosen.entries()]
await Promise.all(Array.from({ length: Math.min(atOnce, chosen.length) }, async () => {
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const [i, fault] = next
    if (!json) process.stderr.write(`${fault.name} ...\n`)
    const seen = await play(fault, options)
    const figures = figuresOf(seen)
    const misses = missesOf(figures)
    const details = detailsOf(seen)
    rows[i] = { fault: fault.name, figures, misses, details }
    const report = [...misses.map(({ what }) => `  ${what}`), ...details.map(detail => `    ${detail}`)]
    // With several plays at once, the lines of one stand together below its name.
    if (report.length > 0) process.stderr.write(`${[fault.name, ...report].slice(atOnce > 1 ? 0 : 1).join('\n')}\n`)
  }
}))
console.log(json ? JSON.stringify(rows, null, 2) : `\n${renderRows(rows)}`)
if (rows.some(({ misses }) => misses.length > 0)) process.exitCode = 1

/** Details that help to find the cause of a miss. */
function detailsOf ({ instances, missing, countersOff }: Awaited<ReturnType<typeof play>>): string[] {
  return [
    ...instances.flatMap(({ errors }) => errors),
    ...Object.values(missing).flat(),
    ...countersOff.map(({ key, counted, least, most }) => {
      return `${key}: ${counted} counted, not ${least}${most === least ? '' : ` to ${most}`}`
    })
  ].slice(0, 20)
}
