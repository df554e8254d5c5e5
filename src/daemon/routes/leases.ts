/** Handlers for the leases that hold temporary VMs. */
import type { TemporaryVms } from '../../control/vm/temporary.ts';
import type { Handlers } from '../server.ts';
import { replyJsonLines } from '../streamed-reply.ts';

export function leaseHandlers(temporary: TemporaryVms): Pick<Handlers, 'holdLease' | 'endLease'> {
  return {
    holdLease: async ({ query, reply, signal }) =>
      await replyJsonLines(reply, temporary.hold(query.holder ?? null, signal), signal),
    endLease: async ({ params: { id } }) => {
      await temporary.end(id);
      return { id };
    },
  };
}
