/** The host's real resolvers, each in a namespace of its own, set up and taken back as `banger dns setup` does. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { debianPackage, type Unpacked } from '../dns/support/debian-packages.ts';
import { runInNamespace, whyNoNamespace } from '../dns/support/namespace.ts';

const RESOLVERS = [
  { kind: 'systemd-resolved', name: 'systemd-resolved', program: 'systemd-resolved' },
  { kind: 'dnsmasq', name: 'dnsmasq-base', program: 'dnsmasq' },
  { kind: 'networkmanager-dnsmasq', name: 'dnsmasq-base', program: 'dnsmasq' },
  { kind: 'unbound', name: 'unbound', program: 'unbound' },
];

const noNamespace = await whyNoNamespace();

const unpacked = new Map<string, Unpacked | string>();
for (const { name, program } of RESOLVERS) {
  unpacked.set(name, await debianPackage(name, program).catch((error: Error) => error.message));
}

// side by side: they spend their time waiting for records to run out
describe('the resolvers of hosts', { concurrency: RESOLVERS.length }, () => {
  for (const { kind, name } of RESOLVERS) {
    const files = unpacked.get(name);
    const skip = noNamespace ?? (typeof files === 'string' ? files : false);

    describe(`${kind}, with the program of Debian's ${name}`, { skip, concurrency: 1 }, () => {
      let findings: Record<string, unknown> = {};

      it('is set up, proven, restarted and set back', async () => {
        assert.ok(typeof files === 'object');
        const env = { PATH: files.path, LD_LIBRARY_PATH: files.libraries };
        findings = JSON.parse(await runInNamespace('resolver-scenario.ts', [kind, files.root], env));
        assert.equal(findings.kind, kind);
        assert.equal(findings.proof, true);
      });

      it('finds VMs, names below them and addresses, and nothing that is gone', () => {
        assert.notEqual(findings.before, '172.30.0.2', 'not before the setup');
        assert.equal(findings.address, '172.30.0.2');
        assert.equal(findings.wildcard, '172.30.0.2');
        assert.equal(findings.upperCase, '172.30.0.2');
        assert.equal(findings.reverse, 'web.vm');
        assert.equal(findings.missing, 'ENOTFOUND');
        assert.equal(findings.late, '172.30.0.3', 'a name that was missing a moment ago');
        assert.equal(findings.deleted, 'ENOTFOUND');
      });

      it('sends only the zone to bangerd, and nothing of it elsewhere', () => {
        assert.equal(findings.elsewhere, '192.0.2.80');
        assert.equal(findings.unknown, 'ENOTFOUND');
        assert.equal(findings.toBangerd, 0);
        assert.equal(findings.leaked, 0);
      });

      it('keeps the route when it restarts and when it is set up twice', () => {
        assert.equal(findings.afterRestart, '172.30.0.2');
        assert.equal(findings.afterSecondSetup, '172.30.0.2');
      });

      it('is as before after the undo', () => {
        assert.notEqual(findings.afterUndo, '172.30.0.2');
        assert.equal(findings.elsewhereAfterUndo, '192.0.2.80');
        assert.deepEqual(findings.changedAfterUndo, [], 'every file of /etc has its old content');
        assert.equal(findings.setUpAfterUndo, false);
        assert.equal(findings.secondUndo, 0);
      });

      it('is explained link by link', () => {
        assert.equal(findings.explainedBefore, 'record ok, listener ok, resolver broken');
        assert.equal(findings.explainedAfter, 'record ok, listener ok, resolver ok, lookup ok');
      });
    });
  }
});
