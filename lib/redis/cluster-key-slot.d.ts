/** Types of cluster-key-slot, a dependency of ioredis that has none. */
declare module 'cluster-key-slot' {
  /** @returns the slot of a Cluster that the key lies in, 0 to 16383 */
  export default function keySlot (key: string): number
}
