/** Bills of materials of an image: SPDX 2.3 and CycloneDX 1.6, as JSON. Equal images give equal documents. */
import { createHash } from 'node:crypto';
import type { InstalledPackage } from '../core/packages.ts';
import type { Distribution } from '../system/os-release.ts';
import type { PackageKind } from './package-databases.ts';

export interface SbomSubject {
  name: string;
  /** of its root file system */
  digest: string;
  createdAt: string;
  packages: readonly InstalledPackage[];
  /** undefined when several managers, or none, have left a database */
  kind: PackageKind | undefined;
  distribution: Pick<Distribution, 'id' | 'version' | 'name'>;
  /** program that says so, with its version */
  tool: { name: string; version: string };
}

export type SbomFormat = 'spdx' | 'cyclonedx';

export function formatSbom(format: SbomFormat, subject: SbomSubject): Record<string, unknown> {
  return format === 'spdx' ? spdx(subject) : cycloneDx(subject);
}

/** SPDX 2.3, chapters 6, 7 and 11. */
function spdx(subject: SbomSubject): Record<string, unknown> {
  const { name, digest, createdAt, packages, tool, distribution } = subject;
  const root = 'SPDXRef-Image';
  const open = { downloadLocation: 'NOASSERTION', filesAnalyzed: false, copyrightText: 'NOASSERTION' };
  const licences = { licenseConcluded: 'NOASSERTION', licenseDeclared: 'NOASSERTION' };
  const listed = packages.map((one, index) => ({
    ...{ SPDXID: `SPDXRef-Package-${index + 1}`, name: one.name, versionInfo: one.version, ...open, ...licences },
    ...references(subject, one),
  }));
  return {
    ...{ spdxVersion: 'SPDX-2.3', dataLicense: 'CC0-1.0', SPDXID: 'SPDXRef-DOCUMENT', name },
    documentNamespace: `urn:uuid:${uuidOf(subject, 'spdx')}`,
    creationInfo: { created: inSeconds(createdAt), creators: [`Tool: ${tool.name}-${tool.version}`] },
    packages: [
      {
        ...{ SPDXID: root, name, versionInfo: digest, ...open, ...licences },
        ...{ primaryPackagePurpose: 'OPERATING-SYSTEM', summary: distribution.name },
      },
      ...listed,
    ],
    relationships: [
      { spdxElementId: 'SPDXRef-DOCUMENT', relationshipType: 'DESCRIBES', relatedSpdxElement: root },
      ...listed.map(({ SPDXID }) => ({
        ...{ spdxElementId: root, relationshipType: 'CONTAINS', relatedSpdxElement: SPDXID },
      })),
    ],
  };
}

function references(subject: SbomSubject, one: InstalledPackage): Record<string, unknown> {
  const url = packageUrl(subject, one);
  if (url === undefined) return {};
  return { externalRefs: [{ referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: url }] };
}

/** CycloneDX 1.6, JSON. */
function cycloneDx(subject: SbomSubject): Record<string, unknown> {
  const { name, digest, createdAt, packages, tool, distribution } = subject;
  const seen = new Set<string>();
  const components = packages.map((one, index) => {
    const url = packageUrl(subject, one);
    const reference = url !== undefined && !seen.has(url) ? url : `package-${index + 1}`;
    seen.add(reference);
    return {
      ...{ type: 'library', 'bom-ref': reference, name: one.name, version: one.version },
      ...(url === undefined ? {} : { purl: url }),
    };
  });
  return {
    ...{
      bomFormat: 'CycloneDX',
      specVersion: '1.6',
      serialNumber: `urn:uuid:${uuidOf(subject, 'cyclonedx')}`,
      version: 1,
    },
    metadata: {
      timestamp: inSeconds(createdAt),
      tools: { components: [{ type: 'application', name: tool.name, version: tool.version }] },
      component: {
        ...{ type: 'operating-system', 'bom-ref': 'image', name, version: digest, description: distribution.name },
      },
    },
    components,
    dependencies: [{ ref: 'image', dependsOn: components.map((each) => each['bom-ref']) }],
  };
}

/** package-url.org; undefined where it is not known which manager's a package is. */
export function packageUrl(
  { kind, distribution }: Pick<SbomSubject, 'kind' | 'distribution'>,
  { name, version, arch }: InstalledPackage,
): string | undefined {
  if (kind === undefined) return undefined;
  const encoded = (text: string) => encodeURIComponent(text).replaceAll('%3A', ':');
  const { id, version: release } = distribution;
  const distro = release === undefined ? id : `${id}-${release}`;
  const [, epoch, rest] = /^(\d+):(.*)$/.exec(version) ?? [];
  // rpm's has its epoch apart
  const apart = kind === 'rpm' && epoch !== undefined && rest !== undefined;
  const shown = apart ? rest : version;
  const qualifiers = [`arch=${encoded(arch)}`, `distro=${encoded(distro)}`, ...(apart ? [`epoch=${epoch}`] : [])];
  return `pkg:${kind}/${encoded(id)}/${encoded(kind === 'rpm' ? name : name.toLowerCase())}@${encoded(shown)}?${qualifiers.join('&')}`;
}

/** RFC 9562, version 8: the same for the same image. */
function uuidOf({ name, digest, createdAt }: SbomSubject, format: string): string {
  const hex = createHash('sha256')
    .update(JSON.stringify([format, name, digest, createdAt]))
    .digest('hex');
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) & 3) | 8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Neither format takes parts of a second. */
function inSeconds(time: string): string {
  return `${new Date(time).toISOString().slice(0, 19)}Z`;
}
