/** Handlers for operations. */
import { once } from 'node:events';
import type { Host } from '../../control/host.ts';
import type { Handlers } from '../server.ts';

type OperationHandlers = Pick<Handlers, 'listOperations' | 'showOperation' | 'operationEvents' | 'cancelOperation'>;

export function operationHandlers({ operations }: Host): OperationHandlers {
  return {
    listOperations: async () => operations.list(),
    showOperation: async ({ params }) => operations.get(params.id),
    operationEvents: async ({ params, query, reply, signal }) => {
      operations.get(params.id);
      const events = operations.events(params.id, signal, query.follow ?? true);
      reply.hijack();
      const { raw } = reply;
      raw.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
      for await (const event of events) {
        if (!raw.write(`${JSON.stringify(event)}\n`)) await once(raw, 'drain', { signal }).catch(() => {});
      }
      raw.end();
    },
    cancelOperation: async ({ params }) => operations.cancel(params.id),
  };
}
