import assert from 'node:assert/strict';
import { duplexPair } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { createFrameDecoder, FRAME } from '../../../src/api/exec-frames.ts';
import type { Host } from '../../../src/control/host.ts';
import { execInVm } from '../../../src/control/vm/exec.ts';
import { connectSsh } from '../../../src/guest/ssh.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { sampleVm } from '../../support/sample-vm.ts';

describe('a command in a guest', () => {
  it('has its exit status passed on when the guest answers with everything at once', async (t) => {
    const { target } = await sshGuest(t);
    await using connection = await connectSsh(target, 5000);
    const guests = { get: async () => connection };
    // of the host, nothing else is looked at
    const host = { guests } as unknown as Host;
    for (let round = 0; round < 5; round++) {
      const [client, daemon] = duplexPair();
      const received = buffer(client);
      await execInVm(host, sampleVm({ phase: 'running' }), { argv: ['true'] }, daemon);
      const frames = [...createFrameDecoder()(await received)];
      const exit = frames.find(({ type }) => type === FRAME.exit);
      assert.deepEqual(JSON.parse(exit?.payload.toString() ?? '{}'), { code: 0, signal: null });
    }
  });
});
