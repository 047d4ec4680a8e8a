/**
 * Makes sure that the programs that the tests and the bench start are installed:
 *
 *   node tools/install-programs.mjs redis-server prometheus
 *
 * A missing program is installed with the system's package manager if that needs no password; its service is not
 * started. Otherwise this fails with the one line to type.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Packages by package manager. Any program in `found` will do. */
const programs = {
  'redis-server': { found: ['redis-server', 'valkey-server'], apt: 'redis-server', brew: 'redis' },
  openssl: { found: ['openssl'], apt: 'openssl', brew: 'openssl' },
  prometheus: { found: ['prometheus'], apt: 'prometheus', brew: 'prometheus' },
  promtool: { found: ['promtool'], apt: 'prometheus', brew: 'prometheus' },
  wrk: { found: ['wrk'], apt: 'wrk', brew: 'wrk' },
  // On other systems the bench runs without it, and says so.
  taskset: { found: ['taskset'], apt: 'util-linux', onLinuxOnly: true }
}

// Debian puts servers in folders that are not in the PATH of a user.
const usual = ['/usr/bin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/bin']
const folders = [...(process.env.PATH ?? '').split(delimiter), ...usual]
const has = name => folders.some(folder => existsSync(join(folder, name)))
function isMissing (program) {
  const { found, onLinuxOnly } = programs[program]
  return !found.some(has) && (process.platform === 'linux' || !onLinuxOnly)
}

/**
 * Run by sh as root, with the packages as arguments. Under systemd only policy-rc.d keeps a package from starting its
 * service (RUNLEVEL=1, often recommended for this, is for init scripts, and sudo drops it). An existing policy-rc.d is
 * the administrator's, and stays. Ours is removed whatever happens: left behind, it would keep every service of the
 * machine from starting after its next update.
 */
const aptInstall = `
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\\nexit 101\\n' > $policy && chmod 755 $policy || exit 1
  fi
  apt-get -q update
  apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
`

const missing = process.argv.slice(2).filter(isMissing)
if (missing.length > 0) install()

function install () {
  const manager = has('apt-get') ? 'apt' : has('brew') ? 'brew' : undefined
  const packages = [...new Set(missing.map(program => programs[program][manager ?? 'apt']))]
  console.log(`installing ${packages.join(', ')} for ${missing.join(', ')}`)
  if (manager === 'apt') run([...asRoot(), 'sh', '-c', aptInstall, 'install-programs', ...packages])
  if (manager === 'brew') run(['brew', 'install', ...packages])
  const left = missing.filter(isMissing)
  if (left.length === 0) return
  const names = packages.join(' ')
  const line = { apt: `sudo apt-get install ${names}`, brew: `brew install ${names}` }[manager]
  const remedy = line === undefined ? `Install ${names} with your package manager` : `Type: ${line}`
  console.error(`This needs ${left.join(' and ')}. ${remedy}`)
  process.exit(1)
}

function asRoot () {
  return process.getuid() === 0 ? [] : ['sudo', '-n']
}

function run ([command, ...args]) {
  const { status } = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) console.error(`${[command, ...args.filter(argument => argument !== aptInstall)].join(' ')} failed`)
}
