/** Routes of the daemon and the machine. */
import { z } from 'zod';
import * as s from '../schemas.ts';
import type { Route } from './route.ts';

export const systemRoutes = {
  status: {
    method: 'GET',
    url: '/v1/status',
    summary: 'The daemon: version, sockets, counts',
    response: s.DaemonStatus,
  },
  shutdown: { method: 'POST', url: '/v1/shutdown', summary: 'Stop the daemon; VMs keep running', status: 202 },
  doctor: {
    method: 'GET',
    url: '/v1/doctor',
    summary: 'Run every preflight check, or those of one command',
    query: z.object({ command: s.DoctorCommand.optional() }),
    response: s.DoctorReport,
  },
  sudoers: {
    method: 'GET',
    url: '/v1/doctor/sudoers',
    summary: 'The smallest sudoers rules for the daemon’s user',
    response: z.object({ text: z.string().describe('a file for /etc/sudoers.d') }),
  },
} as const satisfies Record<string, Route>;
