import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { playScenario } from '../network/support/small-world.ts';

const skip =
  process.getuid?.() !== 0 ? 'a network namespace needs root' : lacking('nft', 'unshare', 'ip', 'setpriv', 'nsenter');

describe('the network helper with a real kernel', { skip }, () => {
  it('serves each user alone, within a limit, and whenever it is killed nothing is left over', async () => {
    const seen = await playScenario(join(import.meta.dirname, 'support/kernel-scenario.ts'));
    const table = ['table inet hosts', 'table inet banger_u28001', 'table arp banger_u28001'];
    const traces = ['bgr-000000a1', ...table, 'unreachable 172.30.0.0/16'];
    assert.deepEqual(seen, {
      rights: ['CapEff 0000000000001000', 'CapBnd 0000000000001000', 'NoNewPrivs 1'],
      attached: traces,
      owner: '28001',
      forwarding: '2\n1',
      opened: [0, -1, -1],
      mended: { rules: false, routes: [], goneTaps: [] },
      mendedAgain: { rules: true, routes: ['bgr-000000a1'], goneTaps: [] },
      again: traces,
      thief: [
        "The network device bgr-000000a1 is not this user's.",
        "The network device bgr-000000a1 is not this user's.",
        'The VM 000000a1 is not among the VMs of its rules.',
        "The network device bgr-000000a1 is not this user's.",
        'The range cannot change from 172.29.0.0/16 to 172.30.0.0/16 while VMs run in it.',
        'The range cannot change from 172.29.0.0/16 to 172.30.0.0/16 while VMs run in it.',
        'VMs of this host still need the forwarding of eth0.',
      ],
      untouched: true,
      outsider: 'The network helper cannot be reached at SOCKET: connect EACCES SOCKET.',
      limit: [4, ['A user may have 4 VMs on this host at a time, and not 5.']],
      deaths: [6, []],
      given: [['"bgr-000000a1"', '"bgr-000000a3"'], ['"bgr-000000a3"']],
      after: 'table inet hosts',
      forwardingAfter: '0',
      logged: 4,
    });
  });
});
