import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { mortalHost } from '../../support/mortal-host.ts';
import { SIZE, withAgents } from '../../support/warm-host.ts';

describe('a start of a VM whose units failed', () => {
  it('says which, and where to look', async () => {
    await using place = await mortalHost();
    const daemon = withAgents(place.daemon());
    await daemon.recover();
    const ran = await daemon.finish(() => daemon.life.run('web', { ...SIZE, cold: true }));
    assert.equal(ran?.state, 'succeeded', ran?.error?.message ?? 'it died');
    const events = await Array.fromAsync(daemon.host.operations.events(ran.id, AbortSignal.timeout(10_000), false));
    assert.deepEqual(
      events.flatMap((event) => (event.type === 'warning' ? [event.message] : [])),
      ['1 unit of web failed while it booted: sad.service. See: banger exec web -- systemctl status sad.service'],
    );
  });
});
