import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { lacking } from '../bundle/sample-bundle.ts';
import { playScenario } from './support/small-world.ts';

const skip = process.getuid?.() !== 0 ? 'a network namespace needs root' : lacking('nft', 'unshare', 'ip', 'nsenter');

describe('a guest', { skip }, () => {
  it('meets a wall before its host, before clouds, and before tables that are everybody’s', async () => {
    const outside = { '168.63.129.16': 'nothing', '100.100.100.200': 'nothing', '203.0.113.99': '192.0.2.1' };
    assert.deepEqual(await playScenario(join(import.meta.dirname, 'support/reach-scenario.ts')), {
      walled: {
        ...{ gateway: 'nothing', lan: 'nothing', linkLocal: 'nothing', otherGateway: 'nothing' },
        ...outside,
        names: '10.99.0.2',
      },
      open: {
        ...{ gateway: '10.98.0.2', lan: '10.98.0.2', linkLocal: 'nothing', otherGateway: '10.98.0.2' },
        ...outside,
        names: '10.98.0.2',
      },
      host: '10.99.0.1',
      sender: '',
      neighbours: '0',
      flows: 'limited',
      neighbourAfter: '192.0.2.1',
    });
  });
});
