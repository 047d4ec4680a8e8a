/**
 * What a store does with the block list. Addresses that come in are canonical
 * (addresses/address.ts); the caller checks the arguments (api/redis-guard.ts).
 */
import type { Awaitable } from '../runtime/awaitable.js'

export interface Block {
  /** address or CIDR range, canonical */
  readonly ip: string
  readonly reason: string
  /** who or what placed it */
  readonly origin: string
  readonly blockedAtMs: number
  /** Infinity: until it is lifted */
  readonly expiresAtMs: number
}

export interface BlockRequest {
  readonly ip: string
  /** Infinity: until it is lifted */
  readonly durationMs: number
  readonly reason: string
  readonly origin: string
  /** it stands even where a longer block is in force; default: the longer one stands */
  readonly replace?: boolean
}

/** A change of the block list, and when it was, ms since 1970. */
export type BlockOperation =
  { readonly atMs: number } & ({ readonly block: BlockRequest } | { readonly unblock: string })

/** The address or range that an operation is about. */
export function blockedIn (operation: BlockOperation): string {
  return 'block' in operation ? operation.block.ip : operation.unblock
}

export interface BlockStore {
  /**
   * Of two blocks of one address or range the one that ends later stands, with its reason and origin; of two that end
   * at once, the earlier one. `replace`: this one stands in any case.
   *
   * @returns the block that stands
   */
  block (request: BlockRequest): Awaitable<Block>
  /** @returns whether exactly this address or range was blocked */
  unblock (ip: string): Awaitable<boolean>
  /** Whether a block of the address, or of a range around it, is in force. */
  isBlocked (address: string): Awaitable<boolean>
  /** Those in force, in the order of their addresses' texts. */
  blocks (): Awaitable<readonly Block[]>
}
