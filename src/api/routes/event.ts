/** The route of what happens. */
import { z } from 'zod';
import { flag, type Route } from './route.ts';

export const eventRoutes = {
  watchEvents: {
    method: 'GET',
    url: '/v1/events',
    summary: 'What happened lately and, followed, what happens: an `Event` a line',
    query: z.object({
      follow: flag.describe('go on with what comes'),
      since: z.iso.datetime().optional().describe('nothing older than this'),
    }),
    streams: 'application/x-ndjson',
  },
} as const satisfies Record<string, Route>;
