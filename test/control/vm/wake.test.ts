/** Guests that were held and go on as themselves, because what they were held for came to nothing. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { afterHolding, type Guests, warningsOf, withAgents } from '../../support/waking-agents.ts';
import { runningVm } from '../../support/warm-works.ts';

describe('a guest whose suspend comes to nothing', () => {
  it('is woken by its agent, however slow that is to be connected to', async () => {
    await using place = await runningVm();
    const guests: Guests = { woken: [] };
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    afterHolding(daemon, {
      get: async () => undefined,
      standing: () => ({ kind: 'troubled', why: 'it was slow' }),
    });
    place.vmms[0]?.refuse('PUT /snapshot/create');
    const ended = await daemon.finish(() => daemon.life.suspend('web'));
    assert.match(ended?.error?.message ?? '', /web is not suspended/);
    assert.deepEqual(
      guests.woken.map(({ mode }) => mode),
      ['same'],
    );
    assert.deepEqual([await warningsOf(daemon, ended), place.stores.vms.get('web').phase], [[], 'running']);
  });

  it('is not waited for, and nothing is said, when it has no agent', async () => {
    await using place = await runningVm();
    const daemon = place.daemon();
    await daemon.recover();
    daemon.host.agents = { ...daemon.host.agents, connect: async () => assert.fail('there is none') };
    place.vmms[0]?.refuse('PUT /snapshot/create');
    const ended = await daemon.finish(() => daemon.life.suspend('web'));
    assert.match(ended?.error?.message ?? '', /web is not suspended/);
    assert.deepEqual([await warningsOf(daemon, ended), place.stores.vms.get('web').phase], [[], 'running']);
  });
});
