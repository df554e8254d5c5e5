/** Guests without agents, as those of older bundles are. */

import type { Agents } from '../../src/control/host.ts';
import { AgentError } from '../../src/guest/agent/errors.ts';

export const NO_AGENTS: Agents = {
  get: async () => undefined,
  connect: async () => {
    throw new AgentError('absent', 'no agent answers in it');
  },
  failed: () => {},
  standing: () => ({ kind: 'absent' }),
  drop: async () => {},
  [Symbol.asyncDispose]: async () => {},
};
