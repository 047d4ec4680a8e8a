import neostandard from 'neostandard'

const message = 'Use lib/runtime/timers.ts: the fake timers of an application\'s tests replace this.'
const globals = [
  'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate', 'queueMicrotask', 'performance'
]
const modules = ['node:timers', 'node:timers/promises', 'node:perf_hooks']

/** Where no line is longer than 120 columns; the other folders are to follow. */
const narrow = [
  '{bench,chaos,examples,tools}/**/*.{ts,mjs}', 'lib/*.ts', 'lib/{addresses,api,limits,observers,redis,runtime,settings,startup}/**/*.ts'
]

export default [
  ...neostandard({ ts: true, ignores: ['dist', '.tap'] }),
  {
    files: narrow,
    ignores: ['lib/**/lua/scripts.ts'],
    rules: { '@stylistic/max-len': ['error', { code: 120, ignoreUrls: true }] }
  },
  {
    files: ['lib/**/*.ts'],
    ignores: ['lib/runtime/timers.ts', 'lib/runtime/clock.ts'],
    rules: {
      'no-restricted-globals': ['error', ...globals.map(name => ({ name, message }))],
      'no-restricted-imports': ['error', ...modules.map(name => ({ name, message }))],
      'no-restricted-properties': ['error', { object: 'process', property: 'nextTick', message }]
    }
  }
]
