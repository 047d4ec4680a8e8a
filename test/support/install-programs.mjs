/**
 * Makes sure that the programs which the tests start are there:
 *
 *   node test/support/install-programs.mjs redis-server prometheus
 *
 * One that is missing is installed with the system's package manager where
 * that needs no password; its service is not started. Otherwise this fails
 * with the one line to type.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Packages by package manager; the first program of a list is looked for, then its stand-ins. */
const programs = {
  'redis-server': { found: ['redis-server', 'valkey-server'], apt: 'redis-server', brew: 'redis' },
  prometheus: { found: ['prometheus'], apt: 'prometheus', brew: 'prometheus' },
  promtool: { found: ['promtool'], apt: 'prometheus', brew: 'prometheus' }
}

// Debian keeps servers where the PATH of a user does not look.
const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/bin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/bin']
const has = name => folders.some(folder => existsSync(join(folder, name)))
const isMissing = program => !programs[program].found.some(has)

const missing = process.argv.slice(2).filter(isMissing)
if (missing.length > 0) install()

function install () {
  const manager = has('apt-get') ? 'apt' : has('brew') ? 'brew' : undefined
  const packages = [...new Set(missing.map(program => programs[program][manager ?? 'apt']))]
  const lines = {
    apt: [['apt-get', 'update'], ['apt-get', 'install', '-y', '--no-install-recommends', ...packages]],
    brew: [['brew', 'install', ...packages]]
  }[manager] ?? []
  const sudo = manager === 'apt' && process.getuid() !== 0 ? ['sudo', '-n'] : []
  console.log(`installing ${packages.join(', ')} for ${missing.join(', ')}`)
  for (const line of lines) run([...sudo, ...line])
  const left = missing.filter(isMissing)
  if (left.length === 0) return
  const byHand = lines.map(line => [...(sudo.length > 0 ? ['sudo'] : []), ...line].join(' ')).join(' && ')
  console.error(`The tests need ${left.join(' and ')}. Type: ${byHand || `install ${packages.join(' ')} with your package manager`}`)
  process.exit(1)
}

/** A service that the package brings is kept from starting: nothing but the tests is to start these programs. */
function run ([command, ...args]) {
  const noServices = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  const { status } = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'], env: noServices })
  if (status !== 0) console.error(`${[command, ...args].join(' ')} failed`)
}
