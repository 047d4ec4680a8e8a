/** Errors: stable names and codes, and messages that say what to do. */
import t from 'tap'
import {
  ArgumentError, ClosedError, GuardError, LimitError, OptionsError, RefusalError, show, StoreUnavailableError,
  ValueError
} from '../lib/errors.js'

const problem = { option: 'max', rule: 'a whole number >= 0', received: '"ten"' }
const cause = new Error('connect ECONNREFUSED')

t.test('every error has its own name and a stable code', async t => {
  const errors: [GuardError, name: string, code: string][] = [
    [new GuardError('GUARD_ERR_METRICS_ROUTE', 'taken'), 'GuardError', 'GUARD_ERR_METRICS_ROUTE'],
    [new OptionsError([problem]), 'OptionsError', 'GUARD_ERR_OPTIONS'],
    [new ArgumentError(problem), 'ArgumentError', 'GUARD_ERR_ARGUMENT'],
    [new LimitError('too much'), 'LimitError', 'GUARD_ERR_LIMIT'],
    [new ClosedError(), 'ClosedError', 'GUARD_ERR_CLOSED'],
    [new ValueError('no number'), 'ValueError', 'GUARD_ERR_VALUE'],
    [new StoreUnavailableError('timeout', 'late'), 'StoreUnavailableError', 'GUARD_ERR_STORE_UNAVAILABLE']
  ]
  for (const [error, name, code] of errors) {
    t.match(error, { name, code })
    t.type(error, GuardError)
    t.type(error, Error)
  }
})

t.test('a wrong option is reported with its rule, the received value and the remedy', async t => {
  t.equal(new ArgumentError(problem).message, 'max must be a whole number >= 0, got "ten"')
  t.equal(
    new ArgumentError({ ...problem, remedy: 'leave it out' }).message,
    'max must be a whole number >= 0, got "ten"; leave it out'
  )
})

t.test('one error lists all wrong options, a line each', async t => {
  const error = new OptionsError([
    problem,
    { option: 'hook', rule: "'onRequest'", received: '7', remedy: 'leave it out' }
  ])
  t.equal(error.message, `fastify-redis-guard cannot start:
  - max must be a whole number >= 0, got "ten"
  - hook must be 'onRequest', got 7; leave it out`)
  t.equal(error.problems.length, 2)
})

t.test('an unavailable store keeps the cause and its kind, and is a 500 if a route throws it', async t => {
  const error = new StoreUnavailableError('connection', 'Redis cannot be used', cause)
  t.equal(error.cause, cause)
  t.match(error, { kind: 'connection', statusCode: 500 })
})

t.test('an error without a cause has no property `cause`', async t => {
  t.notOk(Object.hasOwn(new StoreUnavailableError('timeout', 'late'), 'cause'))
})

t.test('a received value is shown with its type', async t => {
  const values: [value: unknown, shown: string][] = [
    ['10', '"10"'],
    [10, '10'],
    [NaN, 'NaN'],
    [true, 'true'],
    [undefined, 'undefined'],
    [null, 'null'],
    [10n, '10n'],
    [[1, 2], 'an array of 2'],
    [{ password: 'hunter2' }, 'an object'],
    [() => 'hunter2', 'a function'],
    [Symbol('hunter2'), 'a symbol'],
    ['two\nlines', '"two\\nlines"']
  ]
  for (const [value, shown] of values) t.equal(show(value), shown)
})

t.test('a long received value is shortened visibly', async t => {
  t.equal(show('x'.repeat(60)), `"${'x'.repeat(60)}"`)
  t.equal(show('x'.repeat(61)), `"${'x'.repeat(60)}..."`)
  t.equal(show(10n ** 100_000n), `1${'0'.repeat(59)}...`)
})

t.test('a refusal has the status of its code twice, and hides its message only with a 503', async t => {
  const refusals = [[429, 'GUARD_LIMITED', true], [403, 'GUARD_BLOCKED', true], [503, 'GUARD_DENIED', false]] as const
  for (const [statusCode, code, expose] of refusals) {
    const refusal = new RefusalError(statusCode, code, 'refused')
    t.match(refusal, { statusCode, status: statusCode, expose })
    t.same(Object.keys(refusal).sort(), ['code', 'message', 'statusCode'])
  }
})
