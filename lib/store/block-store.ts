/**
 * The contract of a store for the block list. Callers pass canonical addresses
 * (addresses/address.ts) and check the arguments (api/redis-guard.ts).
 */
import type { Awaitable } from '../runtime/awaitable.js'

/** A block of an address or range. */
export interface Block {
  /** address or CIDR range, canonical */
  readonly ip: string
  /** why it was blocked; empty: no reason was given */
  readonly reason: string
  /** who or what blocked it */
  readonly origin: string
  /** ms since 1970 */
  readonly blockedAtMs: number
  /** ms since 1970; Infinity: until it is unblocked */
  readonly expiresAtMs: number
}

export interface BlockRequest {
  /** address or CIDR range, canonical */
  readonly ip: string
  /** Infinity: until it is unblocked */
  readonly durationMs: number
  readonly reason: string
  readonly origin: string
  /** true: this block replaces a longer one; default: the longer one stands */
  readonly replace?: boolean
}

/** A change of the block list. `atMs`: when it was made, ms since 1970. */
export type BlockOperation =
  { readonly atMs: number } & ({ readonly block: BlockRequest } | { readonly unblock: string })

/** The address or range that an operation blocks or unblocks. */
export function blockedIn (operation: BlockOperation): string {
  return 'block' in operation ? operation.block.ip : operation.unblock
}

export interface BlockStore {
  /**
   * Blocks an address or range. If it is already blocked, the block that ends later stands, with its reason and origin.
   * If both end at the same moment, the earlier one stands. With `replace` the new block always stands.
   *
   * @returns the block that stands
   */
  block (request: BlockRequest): Awaitable<Block>
  /** @returns whether exactly this address or range was blocked */
  unblock (ip: string): Awaitable<boolean>
  /** Whether the address, or a range around it, is blocked. */
  isBlocked (address: string): Awaitable<boolean>
  /** The blocks in force, sorted by the text of their address. */
  blocks (): Awaitable<readonly Block[]>
}
