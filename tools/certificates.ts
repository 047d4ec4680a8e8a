/** Certificate authorities for tests, and the certificates that they issue to servers and clients. */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { findProgram } from './program.js'

export interface Certificate {
  /** paths */
  readonly certFile: string
  readonly keyFile: string
  /** PEM */
  readonly cert: string
  readonly key: string
}

/** Removes all files at its end, as a test does. */
interface Owner {
  teardown: (remove: () => Promise<void>) => void
}

export interface CertificateOptions {
  /** the names that it is valid for, as openssl's subjectAltName */
  names?: string
  /** -1: it has expired */
  days?: number
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

export class Authority {
  readonly #folder: string
  /** PEM */
  readonly ca: string
  #issued = 0

  private constructor (folder: string, ca: string) {
    this.#folder = folder
    this.ca = ca
  }

  static async create (owner: Owner): Promise<Authority> {
    const folder = await mkdtemp(join(tmpdir(), 'certificates-'))
    owner.teardown(async () => await rm(folder, { recursive: true, force: true }))
    await openssl(
      'req', '-x509', ...newKey, '-keyout', join(folder, 'ca.key'), '-out', join(folder, 'ca.pem'),
      '-days', '2', '-subj', '/CN=test authority'
    )
    return new Authority(folder, await readFile(join(folder, 'ca.pem'), 'utf8'))
  }

  get caFile (): string {
    return join(this.#folder, 'ca.pem')
  }

  async issue ({ names = 'DNS:localhost,IP:127.0.0.1', days = 2 }: CertificateOptions = {}): Promise<Certificate> {
    const number = ++this.#issued
    const file = (ending: string) => join(this.#folder, `${number}.${ending}`)
    const [certFile, keyFile] = [file('pem'), file('key')]
    await openssl('req', ...newKey, '-keyout', keyFile, '-out', file('csr'), '-subj', `/CN=test ${number}`)
    await writeFile(file('names'), `subjectAltName=${names}`)
    await openssl(
      'x509', '-req', '-in', file('csr'), '-CA', this.caFile, '-CAkey', join(this.#folder, 'ca.key'),
      '-set_serial', String(number), '-out', certFile, '-days', String(days), '-extfile', file('names')
    )
    return { certFile, keyFile, cert: await readFile(certFile, 'utf8'), key: await readFile(keyFile, 'utf8') }
  }
}

async function openssl (...args: string[]): Promise<void> {
  await promisify(execFile)(findProgram('openssl'), args)
}
