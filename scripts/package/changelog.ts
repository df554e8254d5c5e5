/** CHANGELOG.md in the format of Debian's changelogs (deb-changelog(5)), and what of it belongs to one version. */
import { MAINTAINER } from './identity.ts';

interface Release {
  version: string;
  /** day, when it has one */
  date: string | undefined;
  /** points of the list, each in one line */
  points: string[];
}

const HEADING = /^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?/;
const WIDTH = 76;

/**
 * @param version what unreleased changes are called
 * @param date when they are from
 */
export function debianChangelog(markdown: string, version: string, date: Date): string {
  return releasesOf(markdown)
    .map((release) => {
      const unreleased = release.version === 'Unreleased';
      if (unreleased && release.points.length === 0) return '';
      const day = unreleased || release.date === undefined ? date : new Date(`${release.date}T00:00:00Z`);
      const points = release.points.length > 0 ? release.points : ['Release.'];
      return [
        `banger (${unreleased ? version : release.version}) unstable; urgency=medium`,
        '',
        ...points.map(point),
        '',
        ` -- ${MAINTAINER}  ${day.toUTCString().replace('GMT', '+0000')}`,
        '',
      ].join('\n');
    })
    .filter(Boolean)
    .join('\n');
}

/** Every release of the file, newest first. */
function releasesOf(markdown: string): Release[] {
  const releases: Release[] = [];
  for (const line of markdown.split('\n')) {
    const [, version, date] = HEADING.exec(line) ?? [];
    const current = releases.at(-1);
    if (version !== undefined) releases.push({ version, date, points: [] });
    else if (!current) continue;
    else if (line.startsWith('- ')) current.points.push(line.slice(2));
    else if (line.startsWith('  ') && current.points.length > 0)
      current.points.push(`${current.points.pop()} ${line.trim()}`);
  }
  return releases;
}

function point(text: string): string {
  const lines: string[] = [];
  let line = '  *';
  for (const word of text.split(/\s+/)) {
    if (line.length + word.length + 1 > WIDTH) {
      lines.push(line);
      line = '   ';
    }
    line += ` ${word}`;
  }
  return [...lines, line].join('\n');
}
