#version 300 es
// A plane of niivue's: the scan, the heat over it, the threshold's line, and the label's on top.
precision highp int;
precision highp float;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform highp sampler3D drawing;
uniform float opacity;
uniform float overlayAlphaShader;
uniform float drawOpacity;
in vec3 texPos;
out vec4 color;

// Of whole voxels, so that lines run along their edges.
float nearest(highp sampler3D from, vec3 place, int channel) {
	ivec3 size = textureSize(from, 0);
	return texelFetch(from, clamp(ivec3(place * vec3(size)), ivec3(0), size - 1), 0)[channel];
}

// niivue makes opaque what is at or above the threshold, and paler what is below.
bool found(vec3 place) { return nearest(overlay, place, 3) > 0.997; }

bool outlined(vec3 place) { return nearest(drawing, place, 0) > 0.0; }

void main() {
	vec3 x = dFdx(texPos);
	vec3 y = dFdy(texPos);
	vec4 heat = texture(overlay, texPos);
	// To the fourth power: with niivue's square the eighth, as in the still pictures.
	float shown = pow(heat.a, 4.0) * overlayAlphaShader;
	color = vec4(mix(texture(volume, texPos).rgb, heat.rgb, shown), opacity);
	bool here = found(texPos);
	if (overlayAlphaShader > 0.0 && here
		&& !(found(texPos + x) && found(texPos - x) && found(texPos + y) && found(texPos - y)))
		color.rgb = mix(color.rgb, vec3(1.0), 0.8);
	if (drawOpacity > 0.0 && outlined(texPos)
		&& !(outlined(texPos + 1.5 * x) && outlined(texPos - 1.5 * x)
			&& outlined(texPos + 1.5 * y) && outlined(texPos - 1.5 * y)))
		color.rgb = mix(color.rgb, vec3(0.2, 1.0, 0.2), drawOpacity);
}
