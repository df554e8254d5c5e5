/** Name lookups of guests by the C library, over links like those of VMs, in a namespace of their own. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runInNamespace, whyNoNamespace } from '../dns/support/namespace.ts';

describe('guests', { skip: (await whyNoNamespace()) ?? false }, () => {
  let findings: Record<string, unknown> = {};

  it('are served as soon as the first of them has a link', async () => {
    findings = JSON.parse(await runInNamespace('guest-scenario.ts', []));
    assert.equal(findings.beforeFirstTap, 'waiting');
    assert.equal(findings.afterFirstTap, 'listening');
  });

  it('find other VMs by name and by address', () => {
    assert.equal(findings.otherVm, '172.30.0.3 STREAM');
    assert.equal(findings.below, '172.30.0.3 STREAM');
    assert.equal(findings.reverse, '172.30.0.3 db.vm');
    assert.equal(findings.missing, 'nothing');
  });

  it("find the rest as the host does, although the host's resolver is on loopback and changes", () => {
    assert.equal(findings.outside, '192.0.2.80 STREAM');
    assert.equal(findings.afterChange, '192.0.2.90 STREAM');
    assert.deepEqual(findings.forwarded, { answered: 2, failed: 0, busy: 0 });
  });

  it('that are not VMs of banger find nothing', () => {
    assert.equal(findings.stranger, 'nothing');
  });
});
