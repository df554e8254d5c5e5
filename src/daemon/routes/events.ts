/** The handler for what happens. */
import type { Host } from '../../control/host.ts';
import type { Handlers } from '../server.ts';
import { replyJsonLines } from '../streamed-reply.ts';

export function eventHandlers({ events }: Pick<Host, 'events'>): Pick<Handlers, 'watchEvents'> {
  return {
    watchEvents: async ({ query, reply, signal }) => {
      const since = query.since === undefined ? {} : { since: new Date(query.since) };
      await replyJsonLines(reply, events.read({ ...since, follow: query.follow ?? false, signal }), signal);
    },
  };
}
