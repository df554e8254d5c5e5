/** Handlers for operations. */
import type { Host } from '../../control/host.ts';
import type { Handlers } from '../server.ts';
import { replyJsonLines } from '../streamed-reply.ts';

type OperationHandlers = Pick<Handlers, 'listOperations' | 'showOperation' | 'operationEvents' | 'cancelOperation'>;

export function operationHandlers({ operations }: Host): OperationHandlers {
  return {
    listOperations: async () => operations.list(),
    showOperation: async ({ params }) => operations.get(params.id),
    operationEvents: async ({ params, query, reply, signal }) => {
      operations.get(params.id);
      await replyJsonLines(reply, operations.events(params.id, signal, query.follow ?? true), signal);
    },
    cancelOperation: async ({ params }) => operations.cancel(params.id),
  };
}
