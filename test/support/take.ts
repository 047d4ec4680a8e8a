/** Sends hits to any limit store, and waits for the answers. */
import type { Answer, Hit, LimitStore, Taken } from '../../lib/store/limit-store.js'

/** The parts of a hit that a test gives. */
export type Asked = Omit<Hit, 'onOutage' | 'answered'> & Partial<Pick<Hit, 'onOutage'>>

/** Sends a hit to a store, and waits for its answer. */
export async function answerOf (store: Pick<LimitStore, 'take'>, asked: Asked): Promise<Answer> {
  return await new Promise(resolve => {
    const hit = hitOf(asked, resolve)
    const answer = store.take(hit)
    if (answer !== undefined) resolve(answer)
  })
}

export function hitOf (asked: Asked, answered: (answer: Answer) => void = () => {}): Hit {
  return { onOutage: 'memory', ...asked, answered }
}

/** Takes hits in one turn of the event loop. @throws the failure of the first hit without an answer */
export async function takeAllOf (
  store: Pick<LimitStore, 'take'>, hits: readonly Asked[]
): Promise<readonly Taken[]> {
  const answers = await Promise.all(hits.map(async asked => await answerOf(store, asked)))
  return answers.map(takenOf)
}

export async function takeOf (store: Pick<LimitStore, 'take'>, asked: Asked): Promise<Taken> {
  return takenOf(await answerOf(store, asked))
}

function takenOf (answer: Answer): Taken {
  if (answer.kind === 'unanswered') throw answer.failure
  if (answer.source === 'redis' || answer.source === 'memory') return answer
  throw new TypeError(`decided by ${answer.source}`)
}
