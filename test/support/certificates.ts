/** A certificate authority of a test's own, and a server certificate for localhost by it. */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { findProgram } from './program.js'

export interface Certificates {
  /** files */
  readonly caFile: string
  readonly certFile: string
  readonly keyFile: string
  /** PEM */
  readonly ca: string
}

/** @param owner  removes the files when it is done, as a test does */
export async function makeCertificates (owner: { teardown: (remove: () => Promise<void>) => void }): Promise<Certificates> {
  const folder = await mkdtemp(join(tmpdir(), 'certificates-'))
  owner.teardown(async () => await rm(folder, { recursive: true, force: true }))
  const file = (name: string) => join(folder, name)
  const openssl = async (...args: string[]) => await promisify(execFile)(findProgram('openssl'), args)
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl('req', '-x509', ...newKey, '-keyout', file('ca.key'), '-out', file('ca.pem'), '-days', '2', '-subj', '/CN=test authority')
  await openssl('req', ...newKey, '-keyout', file('server.key'), '-out', file('server.csr'), '-subj', '/CN=localhost')
  await writeFile(file('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1')
  await openssl('x509', '-req', '-in', file('server.csr'), '-CA', file('ca.pem'), '-CAkey', file('ca.key'), '-CAcreateserial', '-out', file('server.pem'), '-days', '2', '-extfile', file('names'))
  return { caFile: file('ca.pem'), certFile: file('server.pem'), keyFile: file('server.key'), ca: await readFile(file('ca.pem'), 'utf8') }
}
