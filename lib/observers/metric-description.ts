/** What every metric is declared with. */
import type { Aggregator } from 'prom-client'

/** A metric as the docs list it; a test compares the two. */
export interface MetricDescription {
  readonly name: string
  readonly labels: readonly string[]
  readonly help: string
  /**
   * How prom-client's `AggregatorRegistry` combines the values of the workers of a `node:cluster`. Default: the sum,
   * which is wrong for a value that all workers share.
   */
  readonly aggregator?: Aggregator
}
