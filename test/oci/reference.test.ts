/** Names of OCI images. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isLoopback, nameOfReference, parseReference } from '../../src/oci/reference.ts';

describe('references', () => {
  it('what is left out has the default that Docker has', () => {
    const text = (given: string) => parseReference(given).text;
    assert.equal(text('nginx'), 'docker.io/library/nginx:latest');
    assert.equal(text('docker://org/app:1.2'), 'docker.io/org/app:1.2');
    assert.equal(text('localhost:5000/a/b'), 'localhost:5000/a/b:latest');
    const digest = `sha256:${'a'.repeat(64)}`;
    assert.equal(text(`quay.io/a/b@${digest}`), `quay.io/a/b@${digest}`);
    assert.equal(text('oci-archive:/tmp/x.tar'), 'oci-archive:/tmp/x.tar');
  });

  it('what names no image is refused', () => {
    for (const bad of ['', 'UPPER', 'a b', '-x', 'a:', 'a/../b', 'a@sha256:12', '--help', 'x;y', 'host:99999999/a']) {
      assert.throws(() => parseReference(bad), /names no OCI image/, bad);
    }
  });

  it('a name is made of the last part and the tag', () => {
    const name = (given: string) => nameOfReference(parseReference(given));
    assert.equal(name('docker.io/library/nginx:1.27'), 'nginx-1-27');
    assert.equal(name('ghcr.io/org/My_app'.toLowerCase()), 'my-app');
    assert.equal(name('docker-archive:/tmp/App.tar.gz'), 'app');
    assert.equal(name('docker-archive:/tmp/App.tar:docker.io/library/web:2'), 'app-web-2');
  });

  it('only this machine is spoken to without TLS unasked', () => {
    for (const host of ['localhost', 'localhost:5000', '127.0.0.1:5000', '[::1]:80']) assert.ok(isLoopback(host), host);
    for (const host of ['localhost.example', '127.0.0.1.example', '10.0.0.1:5000']) assert.ok(!isLoopback(host), host);
  });
});
