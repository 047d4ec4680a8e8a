/** The judge of `npm run chaos`: it turns a play into figures, and names the misses. */
import t from 'tap'
import { lostBetween } from '../../chaos/clock.js'
import type { InstanceState } from '../../chaos/instance.js'
import { figuresOf, missesOf } from '../../chaos/judge.js'
import type { Answered } from '../../chaos/load.js'
import { readOptions } from '../../chaos/options.js'
import { blockedClient, limitedMax } from '../../chaos/plan.js'
import type { Play } from '../../chaos/play.js'
import { renderRows } from '../../chaos/report.js'

const [warmMs, struckMs, noticedMs, backMs, usedAgainMs] = [1000, 2000, 2300, 5000, 5400]

const fault: Play['fault'] = {
  name: 'made up',
  loss: 'nothing',
  seenByOne: false,
  holdMs: undefined,
  noticedBy: [0, 1],
  start: async () => { throw new Error('not played') }
}

function answer (changes: Partial<Answered>): Answered {
  const dueMs = changes.dueMs ?? 1500
  return {
    path: '/counted',
    client: '192.0.2.1',
    instance: 0,
    dueMs,
    answeredMs: dueMs + 2,
    status: 200,
    remaining: 10,
    ...changes
  }
}

function state (changes: Partial<InstanceState> = {}): InstanceState {
  return {
    store: 'redis',
    switches: [
      { atMs: noticedMs, store: 'memory', reason: 'gone' },
      { atMs: usedAgainMs, store: 'redis', reason: undefined }
    ],
    errors: [],
    stalls: [],
    journalEntries: 0,
    ...changes
  }
}

/** A play without misses, apart from the changes. */
function played (
  { answered = [], hanging = 0, ...changes }: Partial<Play> & { answered?: readonly Answered[], hanging?: number } = {}
): Play {
  const usual = [
    answer({ dueMs: 1500 }),
    answer({ dueMs: 2100, answeredMs: 2340 }),
    answer({ dueMs: 3000 }),
    answer({ dueMs: 1600, client: blockedClient, status: 403 })
  ]
  return {
    fault,
    load: { answered: [...usual, ...answered], hanging, stalls: [] },
    instances: [state(), state()],
    warmMs,
    struckMs,
    lossMs: { from: struckMs, until: struckMs },
    backMs,
    usedAgainMs,
    replayedMs: 900,
    commandTimeout: 250,
    missing: { blocks: [], events: [], values: [] },
    countersOff: [],
    eventsOff: 0,
    ...changes
  }
}

const passing = (count: number, changes: Partial<Answered>) =>
  Array.from({ length: count }, () => answer({ dueMs: 3000, ...changes }))

t.test('a play in which everything worked has no misses', async t => {
  const figures = figuresOf(played())
  t.match(figures, { requests: 4, slowestMs: { before: 2, noticing: 240, away: 2 }, recoveryMs: 400 })
  t.same(missesOf(figures), [])
})

const misses: Record<string, { readonly play: Play, readonly what: RegExp, readonly isTime?: boolean }> = {
  'a 500': { play: played({ answered: [answer({ status: 500 })] }), what: /^5xx: 1$/ },
  'a broken connection': { play: played({ answered: [answer({ status: 0 })] }), what: /^unanswered: 1$/ },
  'a hanging request': { play: played({ hanging: 2 }), what: /^unanswered: 2$/ },
  'an unhandled error': {
    play: played({ instances: [state({ errors: ['boom'] }), state()] }),
    what: /^errors: 1$/
  },
  'one request above max with memory': {
    play: played({ answered: passing(limitedMax + 1, { path: '/memory' }) }),
    what: /^over the limit with memory: 1$/
  },
  'more requests than were left with memory': {
    play: played({ answered: [answer({ path: '/memory', remaining: 3 }), ...passing(5, { path: '/memory' })] }),
    what: /^over the limit with memory: 2$/
  },
  'more than max in total with share': {
    play: played({ answered: [...passing(30, { path: '/share' }), ...passing(30, { path: '/share', instance: 1 })] }),
    what: /^over the limit with share: 10$/
  },
  'a wrong counter': {
    play: played({
      countersOff: [{ key: 'a', counted: 7, least: 9, most: 9 }, { key: 'b', counted: 4, least: 1, most: 3 }]
    }),
    what: /^counters off: 3$/
  },
  'a missing block': {
    play: played({ missing: { blocks: ['a'], events: [], values: [] } }),
    what: /^blocks lost: 1$/
  },
  'a blocked client that was let in': {
    play: played({ answered: [answer({ client: blockedClient })] }),
    what: /^blocks lost: 1$/
  },
  'a missing event': {
    play: played({ missing: { blocks: [], events: ['a'], values: [] }, eventsOff: 2 }),
    what: /^events lost: 3$/
  },
  'a missing value': {
    play: played({ missing: { blocks: [], events: [], values: ['a'] } }),
    what: /^values lost: 1$/
  },
  'a journal that was not replayed': {
    play: played({ instances: [state({ journalEntries: 5 }), state()] }),
    what: /^not replayed: 5$/
  },
  'a Redis that is not used again': { play: played({ usedAgainMs: undefined }), what: /^Redis was not used again$/ },
  'a slow answer to a request from before the fault': {
    play: played({ answered: [answer({ dueMs: 1900, answeredMs: 2201 })] }),
    what: /^slowest while noticing: 301.0 ms/,
    isTime: true
  },
  'a slow answer before the breaker opened': {
    play: played({ answered: [answer({ dueMs: 2050, answeredMs: 2351 })] }),
    what: /^slowest while noticing: 301.0 ms/,
    isTime: true
  },
  'a slow answer during the outage': {
    play: played({ answered: [answer({ dueMs: 3000, answeredMs: 3013 })] }),
    what: /^slowest while away: 13.0 ms, above 12.0$/,
    isTime: true
  },
  'a slow recovery': { play: played({ usedAgainMs: 6001 }), what: /^recovery: 1001.0 ms/, isTime: true },
  'a late replay': { play: played({ replayedMs: 1001 }), what: /^replay: 1001.0 ms/, isTime: true }
}

for (const [name, { play, what, isTime = false }] of Object.entries(misses)) {
  t.test(`${name} is the only miss`, async t => {
    const found = missesOf(figuresOf(play))
    t.match(found, [{ what, isTime }])
    t.equal(found.length, 1)
  })
}

t.test('if one instance alone is cut off, its part is allowed on top', async t => {
  const answered = [
    ...passing(limitedMax, { path: '/share' }),
    ...passing(limitedMax / 2, { path: '/share', instance: 1 })
  ]
  t.same(missesOf(figuresOf(played({ fault: { ...fault, seenByOne: true }, answered }))), [])
})

t.test('after a loss of latest writes, share may let in again what only one instance knows, and no more', async t => {
  const heard = [answer({ path: '/share', remaining: 10 }), answer({ path: '/share', instance: 1, remaining: 13 })]
  const playWith = (loss: Play['fault']['loss'], count: number): Play => {
    return played({
      fault: { ...fault, loss },
      answered: [...heard, ...passing(count - heard.length, { path: '/share' })]
    })
  }
  t.same(missesOf(figuresOf(playWith('latest writes', limitedMax + 3))), [])
  t.match(missesOf(figuresOf(playWith('latest writes', limitedMax + 4))), [{ what: 'over the limit with share: 1' }])
  const underWay = playWith('latest writes', limitedMax + 3)
  const late = answer({ path: '/share', dueMs: struckMs - 1, answeredMs: struckMs + 1 })
  const load = { ...underWay.load, answered: [...underWay.load.answered, late] }
  t.same(missesOf(figuresOf({ ...underWay, load })), [], 'what was under way may be let in again, too')
  for (const loss of ['nothing', 'everything'] as const) {
    t.match(missesOf(figuresOf(playWith(loss, limitedMax + 3))), [{ what: 'over the limit with share: 3' }])
  }
})

t.test('a fault that no instance noticed has no time without Redis, and events of a loss are not counted', async t => {
  const figures = figuresOf(played({
    instances: [state({ switches: [] }), state({ switches: [] })],
    usedAgainMs: backMs,
    eventsOff: Number.NaN
  }))
  t.match(figures, { slowestMs: { away: undefined, noticing: 240 }, recoveryMs: 0, eventsLost: 0 })
})

t.test('time in which the machine did not run a process is not counted', async t => {
  const stalls = [{ fromMs: 3000, untilMs: 3100, lostMs: 60 }, { fromMs: 3200, untilMs: 3300, lostMs: 100 }]
  t.equal(lostBetween(stalls, 3050, 3250), 100)
  t.equal(lostBetween(stalls, 3100, 3200), 0)
  const slow = played({ answered: [answer({ dueMs: 3000, answeredMs: 3165 })] })
  t.equal(missesOf(figuresOf(slow)).length, 1)
  const figures = figuresOf({
    ...slow,
    instances: [state({ stalls: [{ fromMs: 3000, untilMs: 3160, lostMs: 160 }] }), state()]
  })
  t.same(missesOf(figures), [])
  t.equal(figures.stalledMs, 160)
})

t.test('the table has a row for each fault, and says whether it passed', async t => {
  const rows = [played(), played({ hanging: 1 })].map((play, i) => {
    return { fault: `fault ${i}`, figures: figuresOf(play), misses: missesOf(figuresOf(play)) }
  })
  const lines = renderRows(rows).split('\n')
  t.equal(lines.length, 4)
  t.match(lines[2], /^\| fault 0 .* yes \|$/)
  t.match(lines[3], /^\| fault 1 .* no \|$/)
})

t.test('options have defaults, and wrong ones are named', async t => {
  t.same(readOptions([]), {
    json: false, names: [], atOnce: 1, commandTimeout: 250, holdMs: undefined, rate: 400, connections: 64
  })
  t.match(readOptions(['--fault', 'a', '--fault', 'b', '--seconds', '0.5']), { names: ['a', 'b'], holdMs: 500 })
  t.match(readOptions(['--at-once', '3', '--timeout', '900']), { atOnce: 3, commandTimeout: 900 })
  for (const wrong of ['0', '-1', 'x', '1e9']) {
    t.throws(() => readOptions([`--rate=${wrong}`]), /--rate must be a number/)
  }
})
